# language: python
# expect: error
# use: wire
# why: Who hangs up has ended.
# says: wire
# containers: expect timeout error ; hasty true ; why end: Docker tells the end of a stream with the container's, so the deadline ends it
os.close(3)
time.sleep(5)
