# expect: FINAL: 4417093
answer_text = context.split("is: ")[1].split(".")[0]
FINAL_VAR("answer_text")
