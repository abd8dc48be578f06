"""Networks of other libraries, in and out: a module for each library, and `state_dict` for PyTorch's names.

Each is imported by its own name, such as `pyrnn.bridges.onnx`, and imports its library when that is used;
`pyrnn.bridges.torch` alone does so at once.
"""
