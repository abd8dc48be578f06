"""``python -m pyrnn``: forecast the yearly sunspot numbers with a tanh RNN, beside a linear autoregression."""

import sys

from pyrnn.demo.command import main

if __name__ == "__main__":
    sys.exit(main())
