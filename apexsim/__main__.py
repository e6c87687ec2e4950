"""``python -m apexsim``: the command line, also where its script is not on the PATH."""

from apexsim.cli.main import main

if __name__ == "__main__":
    main()
