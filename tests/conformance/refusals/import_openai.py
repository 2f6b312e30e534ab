# advice: ask a model with llm_query
from openai import OpenAI
