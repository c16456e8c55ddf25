"""The siege of programs: who asks the guard, who sends events and who fills in the past are killed, again and again."""
