#include "api/migration_hints.hpp"

#include <algorithm>
#include <array>
#include <span>

namespace troupe::api {
namespace {

struct hint {
  std::string_view name, text;
};

constexpr std::string_view no_parallel =
    "a model runs on one GPU; more nodes serve more requests: --decode N --device cuda:0,cuda:1";
constexpr std::string_view automatic = "that is how it always is: leave it out";
constexpr std::string_view in_file = "the model's file says it: leave it out";
constexpr std::string_view proxy = "put a proxy in front for that (docs/security.md)";

constexpr std::string_view no_download =
    "download the file and give its path; deploy/get-model has the default one";

// https://docs.vllm.ai/en/latest/cli/serve.html, https://github.com/ggml-org/llama.cpp/tree/master/tools/server
constexpr std::array flags{
    hint{"--gpu-memory-utilization", "use --gpu-memory-fraction, which is that of each node"},
    hint{"--tensor-parallel-size", no_parallel},
    hint{"-tp", no_parallel},
    hint{"--pipeline-parallel-size", no_parallel},
    hint{"-pp", no_parallel},
    hint{"--data-parallel-size", "use --decode N and --prefill N"},
    hint{"-dp", "use --decode N and --prefill N"},
    hint{"--enable-auto-tool-choice", automatic},
    hint{"--enable-prefix-caching", automatic},
    hint{"--enable-chunked-prefill", automatic},
    hint{"--trust-remote-code", "no code of a model is ever run: leave it out"},
    hint{"--dtype", in_file},
    hint{"--tokenizer", in_file},
    hint{"--chat-template", in_file},
    hint{"--chat-template-file", in_file},
    hint{"--jinja", automatic},
    hint{"--disable-log-requests", "requests are not logged: leave it out"},
    hint{"--uvicorn-log-level", "use --log-level"},
    hint{"--ssl-keyfile", proxy},
    hint{"--ssl-certfile", proxy},
    hint{"--ssl-key-file", proxy},
    hint{"--ssl-cert-file", proxy},
    hint{"--root-path", proxy},
    hint{"--kv-transfer-config", "use --prefill N --decode M: KV blocks move by themselves"},
    hint{"--speculative-config", "use --speculation, or --draft-model FILE"},
    hint{"--model-draft", "use --draft-model"},
    hint{"-md", "use --draft-model"},
    hint{"--enforce-eager", "leave it out"},
    hint{"--seed", "give each request its own seed"},
    hint{"-m", "give the file without a flag, or use --model"},
    hint{"-hf", no_download},
    hint{"--hf-repo", no_download},
    hint{"--cluster-secret", "use --cluster-secret-file, as a flag's value can be seen by others"},
    hint{"-c", "use --max-model-len, which counts for each request"},
    hint{"--ctx-size", "use --max-model-len, which counts for each request"},
    hint{"-ngl", "use --device cuda or --device cpu"},
    hint{"--gpu-layers", "use --device cuda or --device cpu"},
    hint{"--n-gpu-layers", "use --device cuda or --device cpu"},
    hint{"-np", "use --max-num-seqs"},
    hint{"--parallel", "use --max-num-seqs"},
    hint{"-t", "use --threads"},
    hint{"-b", "use --max-num-batched-tokens"},
    hint{"--batch-size", "use --max-num-batched-tokens"},
    hint{"-fa", automatic},
    hint{"--flash-attn", automatic},
    hint{"--alias", "use --served-model-name"},
    hint{"-a", "use --served-model-name"},
    hint{"-n", "give each request max_tokens"},
    hint{"--n-predict", "give each request max_tokens"},
    hint{"--temp", "give each request a temperature"},
};

constexpr std::string_view only_text =
    "This server writes text: there are no embeddings, images or audio.";
constexpr std::array paths{
    hint{"/completion", "llama.cpp's own API is not there: use /v1/completions."},
    hint{"/infill", "Use /v1/completions with prompt and suffix."},
    hint{"/generate", "Use /v1/completions or /v1/chat/completions."},
    hint{"/completions", "OpenAI's API is under /v1: use /v1/completions."},
    hint{"/chat/completions", "OpenAI's API is under /v1: use /v1/chat/completions."},
    hint{"/models", "OpenAI's API is under /v1: use /v1/models."},
    hint{"/v1", "Endpoints are below it: /v1/chat/completions, /v1/completions, /v1/models."},
    hint{"/embedding", only_text},
    hint{"/embeddings", only_text},
    hint{"/v1/embeddings", only_text},
    hint{"/v1/rerank", only_text},
    hint{"/rerank", only_text},
    hint{"/v1/score", only_text},
    hint{"/v1/images/generations", only_text},
    hint{"/v1/audio/speech", only_text},
    hint{"/v1/audio/transcriptions", only_text},
    hint{"/v1/moderations", "This server writes text and judges none."},
    hint{"/api/chat", "Ollama's API is not there: use /v1/chat/completions."},
    hint{"/api/generate", "Ollama's API is not there: use /v1/completions."},
    hint{"/api/tags", "Ollama's API is not there: use /v1/models."},
    hint{"/v1/responses", "Use /v1/chat/completions."},
    hint{"/v1/messages", "Use /v1/chat/completions."},
    hint{"/props", "Use /v1/models and /v1/cluster."},
    hint{"/slots", "Use /v1/cluster and /metrics."},
    hint{"/ping", "Use /health."},
    hint{"/v1/health", "Use /health."},
    hint{"/healthz", "Use /health or /live."},
    hint{"/readyz", "Use /ready."},
    hint{"/livez", "Use /live."},
    hint{"/load", "Use /metrics."},
};

std::string_view look_up(std::span<const hint> table, std::string_view name) {
  const auto at =
      std::find_if(table.begin(), table.end(), [&](const hint& h) { return h.name == name; });
  return at == table.end() ? std::string_view() : at->text;
}

}  // namespace

std::string_view hint_for_flag(std::string_view flag) {
  return look_up(flags, flag);
}

std::string_view hint_for_path(std::string_view path) {
  if (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  return look_up(paths, path);
}

}  // namespace troupe::api
