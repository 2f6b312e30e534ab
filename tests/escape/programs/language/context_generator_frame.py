# language: restricted
# expect: rejected error
# why: Iterating over the context runs a generator of the agent, whose frame leads to everything.
escaped(iter(context).gi_frame.f_back)
