#include "api/config.hpp"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include "model/synthetic.hpp"

namespace troupe::api {
namespace {

result<void> read_secret(node_settings& s) {
  if (s.secret_file.empty()) return {};
  std::ifstream file(s.secret_file);
  if (!file)
    return fail(ec::io_error,
                "--cluster-secret-file: cannot read '" + s.secret_file.string() + "'");
  std::getline(file, s.network.secret);
  while (!s.network.secret.empty() &&
         (s.network.secret.back() == '\r' || s.network.secret.back() == ' '))
    s.network.secret.pop_back();
  if (s.network.secret.size() < 16)
    return fail(ec::invalid_argument, "--cluster-secret-file: the first line of '" +
                                          s.secret_file.string() +
                                          "' must hold at least 16 characters");
  return {};
}

}  // namespace

result<void> validate(serve_config& c) {
  if (c.decode == 0)
    return fail(ec::invalid_argument,
                "--decode 0: at least one decode node is needed; more can join with `troupe node`");
  if (!c.draft_model.empty() && c.draft == 0) c.draft = 1;
  std::error_code ignored;
  if (c.draft > 0 && c.draft_model.empty())
    return fail(ec::invalid_argument,
                "--draft needs --draft-model FILE, a smaller model of the same vocabulary: "
                "`troupe prune` makes one of the model's own layers");
  if (c.draft > 0 && !std::filesystem::exists(c.draft_model, ignored))
    return fail(ec::not_found, "--draft-model: '" + c.draft_model.string() + "' does not exist");
  if (c.prefill + c.decode > 64)
    return fail(ec::invalid_argument,
                "--prefill, --decode: at most 64 nodes can be started on one host");
  return read_secret(c.node);
}

result<void> validate(node_config& c) {
  if (auto known = actors::check_role(c.role); !known)
    return fail(ec::invalid_argument, "--role: " + known.error().detail);
  if (c.join.empty())
    return fail(ec::invalid_argument,
                "--join is missing: the HOST:PORT that `troupe serve` prints as its cluster port");
  TROUPE_TRY(auto target, parse_host_port(c.join, "--join"));
  if (target.second == 0)
    return fail(ec::invalid_argument, "--join '" + c.join + "': port 0 cannot be joined");
  return read_secret(c.node);
}

std::filesystem::path default_model_path() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::filesystem::path base = cache && *cache
                                         ? std::filesystem::path(cache)
                                         : std::filesystem::path(home ? home : "/root") / ".cache";
  return base / "troupe/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

result<std::filesystem::path> find_model(const model_choice& choice) {
  std::error_code ignored;
  if (model::is_synthetic(choice.path)) return choice.path;
  if (!choice.path.empty()) {
    if (!std::filesystem::exists(choice.path, ignored))
      return fail(ec::not_found, "the model '" + choice.path.string() + "' does not exist");
    return choice.path;
  }
  auto path = default_model_path();
  if (!std::filesystem::exists(path, ignored))
    return fail(ec::not_found, "no MODEL was given and the default one is not at '" +
                                   path.string() +
                                   "': run deploy/get-model, or give the path of a GGUF file");
  return path;
}

result<std::pair<std::string, std::uint16_t>> parse_host_port(const std::string& text,
                                                              const std::string& flag) {
  const auto colon = text.rfind(':');
  std::string host = text.substr(0, colon);
  const std::string digits = colon == std::string::npos ? "" : text.substr(colon + 1);
  std::uint16_t port = 0;
  const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  if (digits.empty() || code != std::errc{} || end != digits.data() + digits.size() || host.empty())
    return fail(ec::invalid_argument, flag + " '" + text + "' is not HOST:PORT");
  return std::pair(std::move(host), port);
}

std::string speculation_text(const engine::speculation_options& o) {
  if (!o.enabled || (!o.from_text && !o.from_draft)) return "off";
  return o.from_text && o.from_draft ? "auto" : o.from_text ? "ngram" : "draft";
}

void set_speculation(engine::speculation_options& o, const std::string& how) {
  o.enabled = how != "off";
  o.from_text = how == "auto" || how == "ngram";
  o.from_draft = how == "auto" || how == "draft";
  o.try_draft = how != "draft";
  o.always = how == "draft";
}

std::vector<std::string> node_flags(const node_settings& s, const log_options& log) {
  const auto& e = s.engine;
  std::vector<std::string> flags{"--isa",
                                 s.runner.isa,
                                 "--cluster-host",
                                 s.network.host,
                                 "--max-waiting",
                                 std::to_string(e.max_waiting),
                                 "--inter-token-target-ms",
                                 std::to_string(e.inter_token_target.count()),
                                 "--lease-ms",
                                 std::to_string(e.lease.count()),
                                 "--log-level",
                                 log.level,
                                 "--log-format",
                                 log.format};
  auto add = [&](const char* flag, std::uint64_t value) {
    if (value == 0) return;  // 0 stands for a default that the node finds itself
    flags.emplace_back(flag);
    flags.push_back(std::to_string(value));
  };
  add("--threads", s.runner.num_threads);
  add("--max-model-len", e.max_model_len);
  add("--max-num-seqs", e.max_num_seqs);
  add("--max-num-batched-tokens", e.max_num_batched_tokens);
  add("--max-prefill-chunk", e.max_prefill_chunk);
  add("--kv-blocks", e.num_kv_blocks);
  add("--kv-memory", e.kv_memory_bytes);
  add("--kv-store-memory", s.store.memory_bytes);
  add("--kv-store-disk-size", s.store.disk_bytes);
  add("--kv-store-replicas", s.store.replicas);
  add("--kv-store-patience-ms", static_cast<std::uint64_t>(s.store.patience.count()));
  add("--kv-store-ttl-s", static_cast<std::uint64_t>(s.store.ttl.count()));
  if (!s.store.disk.empty()) {
    flags.emplace_back("--kv-store-disk");
    flags.push_back(s.store.disk.string());
  }
  if (s.runner.exact) flags.emplace_back("--exact");
  if (!s.runner.quantization.empty())
    flags.insert(flags.end(), {"--quantization", s.runner.quantization});
  if (!e.prefix_caching) flags.emplace_back("--no-prefix-caching");
  flags.insert(flags.end(), {"--speculation", speculation_text(e.speculation)});
  add("--speculative-tokens", e.speculation.max_tokens);
  add("--speculative-history", e.speculation.history_bytes >> 20);
  if (s.network.insecure) flags.emplace_back("--insecure-cluster");
  if (!s.secret_file.empty()) {
    flags.emplace_back("--cluster-secret-file");
    flags.push_back(s.secret_file.string());
  }
  return flags;
}

result<std::uint64_t> parse_bytes(const std::string& text, const std::string& flag) {
  double value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string unit(end, text.data() + text.size());
  double factor = 0;
  const std::pair<const char*, double> units[] = {
      {"", 1},         {"B", 1},          {"K", 1024.},       {"KiB", 1024.},
      {"M", 1048576.}, {"MiB", 1048576.}, {"G", 1073741824.}, {"GiB", 1073741824.}};
  for (const auto& [name, f] : units)
    if (unit == name) factor = f;
  // So written that NaN fails.
  if (code != std::errc{} || factor == 0 || !(value >= 0 && value * factor <= 1e15))
    return fail(ec::invalid_argument,
                flag + " '" + text + "': use a number of bytes, or one with K, M or G");
  return static_cast<std::uint64_t>(value * factor);
}

}  // namespace troupe::api
