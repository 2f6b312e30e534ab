# language: python
# expect: ok
# says: resolved nothing
# why: A name is asked of a server; the question itself carries data out.
import socket
for name in ("canary.example", "localhost"):
    try:
        print(socket.getaddrinfo(name, 80))
    except OSError as error:
        print(type(error).__name__)
print("resolved nothing")
