# advice: ask with llm_query(prompt)
import socket
