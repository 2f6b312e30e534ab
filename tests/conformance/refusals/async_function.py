# advice: llm_query_batched(prompts)
async def main():
    return 1
