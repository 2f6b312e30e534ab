# language: restricted
# expect: ok
# says: exact
# why: The agent would call methods of a program's own str and write to the wire whatever they return.
class Bytes:
    def __len__(self): return 0
    def __radd__(self, other):
        escaped(other)
        return b""
class S(str):
    def encode(self, *args): return Bytes()
    def strip(self, *args): escaped(args)
    def __getitem__(self, key): escaped(key)
    def __str__(self): return self
    def __len__(self): escaped(self)
    def __format__(self, spec): escaped(spec)
    def __contains__(self, other): escaped(other)
    def __eq__(self, other): escaped(other)
    def __hash__(self): return hash("x")
class Shown:
    def __str__(self): return S("shown")
text = S("x")
def attempt(action):
    try:
        action()
    except Exception as error:
        print(type(error).__name__)
attempt(lambda: llm_query(text))
attempt(lambda: llm_query("x", model=text))
attempt(lambda: llm_query_batched([text, Shown()]))
attempt(lambda: rlm_query(text, context=text))
attempt(lambda: FINAL_VAR(S("lost")))
attempt(lambda: (context.find(text), context.count(text), text in context, context.startswith((text,))))
attempt(lambda: (context.search(text), context.count_matches(text), context == text, context + text, context < text))
attempt(lambda: (context.replace(text, text), context.split(text), context.partition(text), context.strip(text)))
print(text, Shown(), sep=" ")
answer[text] = 1
attempt(lambda: SHOW_VARS())
print("exact")
