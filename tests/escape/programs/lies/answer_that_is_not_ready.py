# language: both
# expect: ok
# why: Only what is true is ready, and what has methods of its own is not asked.
# says: given=None
class Ready:
    def __bool__(self): escaped('asked')
    def __eq__(self, other): escaped(other)
answer['content'] = 'x'
answer['ready'] = ''
#%%
answer['ready'] = Ready()
#%%
answer = {'content': 'x', 'ready': 0}
#%%
answer = ('content', 'ready')
