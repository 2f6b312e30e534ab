# language: restricted
# expect: ok
# says: closed
# why: A cut answer is a str of a class of its own; its methods are no way round what a str's are asked.
for field in ("0.__init__.__globals__", "0.__self__", "0.__func__.__code__", "0.__class__.__mro__"):
    text = CutAnswer("{" + field + "}")
    ways = [
        lambda: text.format(llm_query),
        lambda: str.format(text, llm_query),
        lambda: CutAnswer.format(text, llm_query),
        lambda: list(map(CutAnswer.format, [text], [llm_query])),
        lambda: getattr(text, "format")(llm_query),
        lambda: text.format_map({"0": llm_query}),
    ]
    for way in ways:
        try:
            escaped(way())
        except (AttributeError, LookupError):
            pass
try:
    class Mine(CutAnswer):
        def encode(self, *args): escaped(args)
    llm_query(Mine("x"))
except (TypeError, ModelError, PolicyDenied):
    pass
print("closed")
