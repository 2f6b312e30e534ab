# advice: llm_query_batched
import asyncio
