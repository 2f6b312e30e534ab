# language: python
# expect: ok
# says: PermissionError
# why: The event loop works in the box, its connections do not.
import asyncio
async def main():
    try:
        await asyncio.open_connection("127.0.0.1", {{tcp}})
    except OSError as error:
        print(type(error).__name__)
asyncio.run(main())
