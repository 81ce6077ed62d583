"""`python -m compiler` is `lmi-compile`."""

from compiler.cli import main

if __name__ == "__main__":
    main()
