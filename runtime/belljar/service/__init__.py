"""The service: what `Host` does, for whoever speaks HTTP."""
