# language: python
# expect: ok
# says: ['dev', 'lib', 'lib64', 'tmp', 'usr']
# why: Whatever else is in the root came from the host.
# docker: says Permission denied ['null', 'urandom', 'zero'] [] ; why root: what Docker adds is covered, and not to be listed
# gvisor: says ['.dockerenv', 'dev', 'etc', 'lib', 'lib64', 'proc', 'sys', 'tmp', 'usr'] ; reaches 1 ; why root: it covers no folder
import os
def names(folder):
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        return error.strerror
print(names("/"), names("/dev"), names("/tmp"))
if names("/dev") != ["null", "urandom", "zero"] or names("/tmp"):
    escaped("more than the image")
