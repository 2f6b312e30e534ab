# language: both
# expect: error
# says: RecursionError
# why: Deep in Python.
def down():
    down()
down()
