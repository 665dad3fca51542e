"""Lets ``python cli.py …`` work from a checkout; the command line itself is ``ffnet_deploy/cli.py``."""

from ffnet_deploy.cli import main

if __name__ == "__main__":
    main()
