def tries(*attempts):
    """Each must be refused by the system; the names of the refusals are printed."""
    import errno
    for attempt in attempts:
        try:
            value = attempt()
        except OSError as error:
            print(errno.errorcode.get(error.errno, error.errno))
        else:
            escaped(value)
