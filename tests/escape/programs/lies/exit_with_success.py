# language: python
# expect: ok
# why: An exit ends the cell and nothing else: the box is the session's, not the program's.
# says: still here
import sys
kept = 'still here'
sys.exit(0)
escaped('went on')
#%%
print(kept)
