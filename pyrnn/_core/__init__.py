"""The compiled modules, made from csrc/*.pyx: what they tell each other (.pxd), and their types (.pyi)."""
