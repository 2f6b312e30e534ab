# language: python
# expect: timeout
# use: wire
# why: The rest never comes.
# limit: cell_wall_ms
# hasty
say(b"\0\0\0")
time.sleep(30)
