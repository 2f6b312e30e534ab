# language: both
# expect: ok
# says: kept 41
# hasty
# why: A cell that lets itself be interrupted does not cost the session.
kept = 41
import time
time.sleep(3600)
#%%
print("kept", kept)
