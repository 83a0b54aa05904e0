"""ChatML, the format of the Qwen family that checkpoints are exported to, with tools and sections of thinking.

What an assistant says, its thoughts and calls among it, stands between `generation` marks: transformers then knows which
tokens a model is to learn. A conversation's text is written by this template alone, in training and in service.
"""

from collections.abc import Sequence

CHAT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n\\nCall a function by its name and arguments, as JSON between <tool_call></tool_call>.\\n\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
            {%- if message.reasoning_content %}
                {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
            {%- endif %}
            {{- message.content or '' }}
            {%- for call in message.tool_calls or [] %}
                {{- '\\n' if message.content or not loop.first }}
                {{- '<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def chat_template(virtual: Sequence[str]) -> str:
    """The template of a model that was prompt-tuned on these tokens: they stand before everything else."""
    return f"{{{{- '{''.join(virtual)}' }}}}\n{CHAT_TEMPLATE}" if virtual else CHAT_TEMPLATE
