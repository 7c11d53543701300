"""`python -m convatlas` is the command `convatlas`; `torchrun -m convatlas train ...` starts several of it."""

from convatlas.cli.main import run

if __name__ == "__main__":
    run()
