"""`python -m bitsmith`, as `torchrun -m bitsmith` needs it."""

from bitsmith.cli import main

if __name__ == "__main__":
    main()
