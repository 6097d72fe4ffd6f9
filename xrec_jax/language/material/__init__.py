"""What LLMXRec's authors published, and files of the same forms: prompts with what was written and judged."""
