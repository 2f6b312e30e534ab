# expect: __main__ 1.0 Runs. print
__all__ = ["run"]
__version__ = "1.0"
def run():
    """Runs."""
    return f"{__name__} {__version__} {run.__doc__} {print.__name__}"
print(run())
