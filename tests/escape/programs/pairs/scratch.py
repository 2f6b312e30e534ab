# why: Each box has a scratch folder of its own, with the same name.
import os, tempfile

#%% write
with open("/tmp/word", "w") as file:
    file.write("word")
os.mkdir("/tmp/folder")
with tempfile.NamedTemporaryFile(delete=False) as file:
    file.write(b"word")
meet()
meet()
if sorted(os.listdir("/tmp")) != sorted(["word", "folder", os.path.basename(file.name)]):
    escaped(os.listdir("/tmp"))
#%% look
meet()
found = [name for folder in ("/tmp", "/dev", "/usr/lib/belljar") for name in os.listdir(folder)]
if "word" in found or "folder" in found or os.listdir("/tmp"):
    escaped(found)
open("/tmp/mine", "w").close()
meet()
