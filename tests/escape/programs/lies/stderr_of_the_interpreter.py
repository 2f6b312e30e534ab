# language: python
# expect: ok
# why: The real descriptors lead nowhere.
# says: stdout='only this
import os
for number in (0, 1, 2):
    os.write(number, b'real descriptor')
print('only this')
