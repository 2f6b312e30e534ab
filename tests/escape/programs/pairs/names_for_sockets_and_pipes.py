# why: A name that two processes can meet at: abstract, in a folder, or a pipe's.
import os, socket, threading

names = ["\0belljar-pair", "/tmp/belljar-pair", "/dev/belljar-pair", "/usr/lib/belljar-pair"]


#%% listen
def serve(name, kind):
    try:
        one = socket.socket(socket.AF_UNIX, kind)
        one.bind(name)
        if kind == socket.SOCK_STREAM:
            one.listen()
    except OSError as error:
        print("socket", error.errno)


for name in names:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        serve(name, kind)
for name in names[1:]:
    try:
        os.mkfifo(name + "-pipe")
    except OSError as error:
        print("pipe", error.errno)
meet()
meet()
#%% call
meet()
for name in names:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            one = socket.socket(socket.AF_UNIX, kind)
            one.connect(name)
            escaped(name)
        except OSError:
            pass
    left, right = socket.socketpair()
    try:
        left.sendto(b"x", name)
        escaped("sent to", name)
    except OSError:
        pass
for name in names[1:]:
    if os.path.exists(name + "-pipe"):
        escaped(name)
meet()
