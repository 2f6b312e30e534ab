# language: python
# expect: error
# use: wire
# why: Who hangs up has ended.
# says: wire
os.close(3)
time.sleep(30)
