# language: both
# expect: memory
# limit: limits.memory
# why: Variables live on and add up.
kept = ["x" * 1_000_000 for _ in range(30)]
#%%
kept += ["y" * 1_000_000 for _ in range(30)]
#%%
kept += ["z" * 1_000_000 for _ in range(90)]
