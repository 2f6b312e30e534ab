# language: restricted
# expect: rejected error
# why: A hook is handed objects of the agent.
import json
json.dumps({"x": context.search}, default=lambda value: escaped(value.__self__))
