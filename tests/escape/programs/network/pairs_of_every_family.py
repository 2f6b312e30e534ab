# language: python
# expect: ok
# says: reached [1]
# why: A pair of another family than Unix makes the kernel load that family's module.
import errno, socket
reached = []
for family in range(64):
    for kind in (1, 2, 3, 5):
        try:
            for one in socket.socketpair(family, kind):
                one.close()
        except OSError as error:
            if error.errno == errno.EPERM:
                continue
        if family not in reached:
            reached.append(family)
print("reached", reached)
if reached != [1]:
    escaped(reached)
