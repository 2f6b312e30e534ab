"""The front door for programs that speak a provider's API: they change their base URL, and a root model answers.

`offered` knows which models they may name, and `models` lists these; `asked` finds what is the question and what the
long text; `running` orders the run and follows it; `anthropic` and `openai` say it in the words of each API.
"""
