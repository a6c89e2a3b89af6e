#include <cstdio>
#include <fstream>
#include <iterator>

#include "api/commands.hpp"
#include "api/layer_search.hpp"
#include "api/serving.hpp"
#include "api/vocabulary_choice.hpp"
#include "model/remake.hpp"

namespace troupe::api {
namespace {

std::string text_of(const std::vector<std::uint32_t>& layers) {
  std::string text;
  for (std::size_t i = 0; i < layers.size();) {
    std::size_t last = i;
    while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += std::to_string(layers[i]);
    if (last > i) text += '-' + std::to_string(layers[last]);
    i = last + 1;
  }
  return text;
}

result<std::vector<token_id>> output_tokens(const prune_config& c, const model::loaded_model& m) {
  if (c.vocab == 0) return std::vector<token_id>();
  TROUPE_TRY(const auto tokenizer, model::tokenizer::make(m));
  std::vector<std::string> texts;
  for (const auto& path : c.texts) {
    std::ifstream in(path, std::ios::binary);
    texts.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    if (in.bad() || !in.is_open())
      return fail(ec::io_error, "'" + path.string() + "' cannot be read");
  }
  return choose_vocabulary(*tokenizer, c.vocab, texts);
}

// The layers that were asked for, all of them if none were.
result<std::vector<std::uint32_t>> layers_to_keep(const prune_config& c,
                                                  std::shared_ptr<const model::loaded_model> m) {
  const std::uint32_t all = m->config.num_hidden_layers;
  if (!c.layers.empty()) return model::parse_layers(c.layers, all);
  if (c.keep == 0) return model::parse_layers("0-" + std::to_string(all - 1), all);
  return search_layers(std::move(m), c.keep, [](std::uint32_t left, double agreement) {
    std::fprintf(stderr, "%u layers: agrees in %.1f %%\n", left, agreement * 100);
  });
}

}  // namespace

int run_command(const prune_config& c) {
  if (auto ok = check_output(c.in, c.out); !ok) return complain(ok.error(), exit_configuration);
  if (c.layers.empty() && c.keep == 0 && c.vocab == 0)
    return complain({ec::invalid_argument,
                     "say what stays: --layers 0-9,28 or --keep 10, --vocab 8000, or both"},
                    exit_configuration);
  if (auto ok = start_logging({"error", "text", ""}); !ok)
    return complain(ok.error(), exit_configuration);
  auto loaded = model::open_model(c.in);
  if (!loaded) return complain(loaded.error(), exit_model);
  const auto exit_of = [](const error& e) {
    return e.code == ec::invalid_argument || e.code == ec::io_error ? exit_configuration
                                                                    : exit_device;
  };
  const auto tokens = output_tokens(c, **loaded);
  if (!tokens) return complain(tokens.error(), exit_of(tokens.error()));
  const auto layers = layers_to_keep(c, *loaded);
  if (!layers) return complain(layers.error(), exit_of(layers.error()));
  auto made = model::prune_model(c.in, c.out, *layers, *tokens);
  if (!made) return complain(made.error(), exit_model);
  const std::string output =
      tokens->empty() ? "" : ", output of " + std::to_string(tokens->size()) + " tokens";
  std::printf("%s: %.1f MB of %.1f MB, layers %s%s\n", c.out.c_str(),
              static_cast<double>(made->bytes_after) / 1e6,
              static_cast<double>(made->bytes_before) / 1e6, text_of(*layers).c_str(),
              output.c_str());
  return exit_clean;
}

}  // namespace troupe::api
