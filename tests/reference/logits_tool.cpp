// Lets logits_reference.py see what the engine computes.
//
//   logits_tool MODEL PROMPTS.jsonl OUT   each line of PROMPTS: {"text": ..., "generate": n}
//
// Continues every prompt greedily by n tokens. OUT.jsonl gets {"ids": [prompt and answer], "generated": n} a line,
// OUT.f32 the n rows of logits [vocab_size] that chose them, prompt after prompt.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "gpu/model_runner.hpp"
#include "model/model.hpp"
#include "model/tokenizer.hpp"

namespace {

template <class T>
T need(troupe::result<T> r) {
  if (!r) {
    std::fprintf(stderr, "logits_tool: %s\n", to_string(r.error()).c_str());
    std::exit(1);
  }
  return std::move(*r);
}

constexpr std::uint32_t num_blocks = 512;

}  // namespace

int main(int argc, char** argv) {
  using namespace troupe;
  if (argc != 4) {
    std::fprintf(stderr, "use: logits_tool MODEL PROMPTS.jsonl OUT\n");
    return 2;
  }
  const auto model = need(model::open_model(argv[1]));
  const auto tokenizer = need(model::tokenizer::make(*model));
  gpu::runner_options options;
  options.device = "cpu";
  const auto runner = need(gpu::make_runner(model, options));
  const std::size_t arena_bytes = num_blocks * runner->layout().block_bytes();
  std::vector<std::byte> memory(arena_bytes + 63);
  void* aligned = memory.data();
  std::size_t space = memory.size();
  std::align(64, arena_bytes, aligned, space);
  if (auto r = runner->attach_kv({static_cast<std::byte*>(aligned), arena_bytes}, num_blocks); !r)
    need(result<int>(tl::unexpected(r.error())));
  std::vector<block_id> blocks(num_blocks);
  std::iota(blocks.begin(), blocks.end(), 0u);

  std::ifstream prompts(argv[2]);
  std::ofstream ids_out(std::string(argv[3]) + ".jsonl");
  std::ofstream logits_out(std::string(argv[3]) + ".f32", std::ios::binary);
  for (std::string line; std::getline(prompts, line);) {
    const auto prompt = nlohmann::json::parse(line);
    std::vector<token_id> ids = tokenizer->encode(prompt["text"].get<std::string>(), true, true);
    const auto generate = prompt["generate"].get<std::size_t>();
    std::vector<token_id> next = ids;
    for (std::size_t k = 0; k < generate; ++k) {
      const gpu::sequence_rows rows{next, static_cast<std::uint32_t>(ids.size() - next.size()),
                                    blocks, 1};
      const auto out = need(runner->forward({std::span(&rows, 1)}));
      logits_out.write(reinterpret_cast<const char*>(out.logits.data()),
                       static_cast<std::streamsize>(out.logits.size_bytes()));
      const auto best = std::max_element(out.logits.begin(), out.logits.end()) - out.logits.begin();
      next = {static_cast<token_id>(best)};
      ids.push_back(next[0]);
    }
    ids_out << nlohmann::json{{"ids", ids}, {"generated", generate}}.dump() << "\n";
  }
  return ids_out.good() && logits_out.good() ? 0 : 1;
}
