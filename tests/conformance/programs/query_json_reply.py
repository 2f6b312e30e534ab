# expect: location True
import json
reply = llm_query("Answer as JSON with label and confidence: Where is Oslo ?")
data = json.loads(reply)
print(data["label"], data.get("confidence", 0) > 0.5)
