# advice: the document is in `context`
text = open("/etc/passwd").read()
