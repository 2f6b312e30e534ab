# language: python
# expect: ok
# says: frames
# why: The frames below the program's are the agent's: nothing of the host may be in their variables.
import sys
frame, frames = sys._getframe(), 0
while frame:
    frames += 1
    text = repr(frame.f_locals) + repr({k: v for k, v in frame.f_globals.items() if isinstance(v, (str, bytes, dict, list))})
    if "BJ" + "CANARY" in text.replace("BJ\" + \"CANARY", ""):
        escaped(text)
    frame = frame.f_back
print("frames", frames)
