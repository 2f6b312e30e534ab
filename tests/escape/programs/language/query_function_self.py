# language: restricted
# expect: rejected error
# why: A bound method names the object that owns the channel.
escaped(llm_query.__self__._channel)
