"""`python -m flax_sepconv`: trained weights of other libraries, in and out."""

import sys

from flax_sepconv.interop.command import main

if __name__ == "__main__":
    sys.exit(main())
