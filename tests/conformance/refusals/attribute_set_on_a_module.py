# advice: objects of your own classes
import json
json.loads = None
