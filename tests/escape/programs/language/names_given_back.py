# language: restricted
# expect: ok
# why: The agent puts names back and shows values between the program's own: it must not be led by them.
# says: 'shown'
class Name(str):
    def __eq__(self, other): escaped(other)
    def __hash__(self): return hash("context")
class Shown:
    def __repr__(self):
        class Text(str):
            def __len__(self): escaped(self)
            def __str__(self): escaped(self)
            def __format__(self, spec): escaped(spec)
        return Text("'shown'")
for name in ("__builtins__", ".checked", ".show", "__build_class__", Name("context"), 5):
    try:
        globals()[name] = escaped
        escaped(name)
    except TypeError:
        pass
context = llm_query = SHOW_VARS = FINAL = Shown()
#%%
Shown()
