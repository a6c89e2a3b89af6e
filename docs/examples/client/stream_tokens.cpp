// Asks a Troupe cluster from a C++ program, without HTTP: typed messages to the gateway actor.
//
//   stream_tokens HOST:PORT MODEL.gguf "prompt" [stop-after-N-tokens]
//
// HOST:PORT is the cluster port that `troupe serve` prints. The model file is read for its tokenizer only: the cluster
// takes and gives token ids. A cluster with a secret: TROUPE_CLUSTER_SECRET_FILE names its file. With a fourth argument the generation is canceled after so many tokens.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

#include "actors/client.hpp"
#include "model/model.hpp"
#include "model/tokenizer.hpp"

namespace {

int give_up(const troupe::error& e) {
  std::cerr << "stream_tokens: " << e.detail << "\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: stream_tokens HOST:PORT MODEL.gguf \"prompt\" [stop-after-N-tokens]\n";
    return 2;
  }
  const std::string where = argv[1];
  const auto colon = where.rfind(':');
  const auto port = static_cast<std::uint16_t>(std::atoi(where.substr(colon + 1).c_str()));
  const std::size_t stop_after = argc > 4 ? std::strtoul(argv[4], nullptr, 10) : 0;

  auto model = troupe::model::open_model(argv[2]);
  if (!model) return give_up(model.error());
  auto tokenizer = troupe::model::tokenizer::make(**model);
  if (!tokenizer) return give_up(tokenizer.error());

  troupe::client_options options;
  if (const char* file = std::getenv("TROUPE_CLUSTER_SECRET_FILE")) {  // as `troupe node` reads it
    std::ifstream in(file);
    if (!std::getline(in, options.secret)) {
      std::cerr << "stream_tokens: cannot read " << file << "\n";
      return 1;
    }
    options.secret.erase(options.secret.find_last_not_of(" \r") + 1);
  }
  auto client = troupe::client::connect(where.substr(0, colon), port, options);
  if (!client) return give_up(client.error());

  troupe::actors::generation what;
  what.prompt = (*tokenizer)->encode(argv[3], true);
  what.sampling.temperature = 0;  // greedy
  what.sampling.max_tokens = 48;
  what.timeout = std::chrono::seconds(60);

  troupe::model::utf8_stream text;  // a token may end in the middle of a character
  std::size_t seen = 0;
  auto end = (*client)->generate(what, [&](const troupe::engine::token_output& token) {
    std::cout << text.push((*tokenizer)->token_bytes(token.token, false)) << std::flush;
    return ++seen != stop_after;  // false cancels: the cluster frees what the request held
  });
  if (!end) return give_up(end.error());
  std::cout << text.flush() << "\n";
  const bool stopped = end->reason == troupe::engine::finish_reason::abort && seen == stop_after;
  if (end->failure.code != troupe::ec::none && !stopped) return give_up(end->failure);

  std::cerr << "finish: " << troupe::engine::to_string(end->reason) << ", "
            << end->usage.completion_tokens << " tokens, decode " << end->trace.decode_node
            << ", prefill " << (end->trace.prefill_node.empty() ? "none" : end->trace.prefill_node)
            << ", blocks pulled " << end->trace.blocks_pulled << "\n";
  return 0;
}
