"""Which chat templates do the tests speak by? Written here in the shape each family documents; two are captured."""

from __future__ import annotations

from pathlib import Path

CAPTURED = Path(__file__).resolve().parents[2] / "captured" / "chat_templates"
QWEN25 = (CAPTURED / "qwen2.5-coder-instruct.jinja").read_text()
SMOLLM2 = (CAPTURED / "smollm2-instruct.jinja").read_text()

CHATML_THINKING = """\
{%- if tools %}<|im_start|>system
# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Answer with <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}"""
"""ChatML as Qwen3 speaks it: it may think, unless a variable forbids it."""

CHATML_ALWAYS_THINKING = CHATML_THINKING.partition("{% if enable_thinking")[0] + "<think>\n{# </think> #}"
"""A model that always thinks: the prompt opens its thinking."""

LLAMA3 = """\
{%- if tools is not none %}<|start_header_id|>system<|end_header_id|>

Environment: ipython<|eot_id|>
{%- for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}
{%- for message in messages %}
{%- if message.tool_calls is defined and message.tool_calls %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception("only single tool-calls at once") }}{% endif %}
{%- set call = message.tool_calls[0].function -%}
<|start_header_id|>assistant<|end_header_id|>

{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot_id|>
{%- else -%}
<|start_header_id|>{{ "ipython" if message.role == "tool" else message.role }}<|end_header_id|>

{{ message.content }}<|eot_id|>
{%- endif %}{% endfor -%}
<|start_header_id|>assistant<|end_header_id|>

"""

MISTRAL = """\
{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for message in messages %}
{%- if message.tool_calls is defined and message.tool_calls -%}
[TOOL_CALLS]{{ message.tool_calls | tojson }}{{ eos_token }}
{%- elif message.role == "tool" -%}
{%- if message.tool_call_id | length != 9 %}{{ raise_exception("ids of length 9") }}{% endif -%}
[TOOL_RESULTS]{{ message.content }}[/TOOL_RESULTS]
{%- else -%}
[INST]{{ message.content }}[/INST]{% endif %}{% endfor %}"""

MISTRAL_ARGS = MISTRAL + "{# [TOOL_CALLS]name[ARGS]{} #}"

GEMMA3 = """\
{{ bos_token }}{% for message in messages %}
{%- if message.role not in ("system", "user", "assistant") %}{{ raise_exception("roles must alternate") }}{% endif -%}
<start_of_turn>{{ "model" if message.role == "assistant" else "user" }}
{{ message.content }}<end_of_turn>
{% endfor %}<start_of_turn>model
"""

FOREIGN = "{% for tool in tools %}{{ tool }}{% endfor %}<tool_call><function=f><parameter=a>1</parameter></function>"
"""A template that knows tools in a format we do not read."""
