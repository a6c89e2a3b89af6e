// Tokenizes and renders for the Python references: one JSON value a line in, one a line out.
//
//   reference_tool tokenize MODEL   "text" -> [ids]
//   reference_tool render           {"template": ..., "context": ...} -> {"text": ...} or {"error": ...}
//   reference_tool speed MODEL      all of standard input as one text -> tokens, MB/s
#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "model/chat_template.hpp"
#include "model/metadata.hpp"
#include "model/model.hpp"
#include "model/strict_json.hpp"
#include "model/tokenizer.hpp"
#include "model/tokenizer_base.hpp"

namespace {

using namespace troupe;

int tokenize(const model::tokenizer& tokenizer) {
  for (std::string line; std::getline(std::cin, line);) {
    const auto text = nlohmann::json::parse(line).get<std::string>();
    std::cout << nlohmann::json(tokenizer.encode(text, false)).dump() << '\n';
  }
  return 0;
}

int speed(const model::tokenizer& tokenizer) {
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  const auto start = std::chrono::steady_clock::now();
  const auto ids = tokenizer.encode(text, false);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  std::printf("%s: %zu bytes, %zu tokens, %.3f s, %.1f MB/s\n", tokenizer.description().c_str(),
              text.size(), ids.size(), took.count(),
              static_cast<double>(text.size()) / 1e6 / took.count());
  return 0;
}

nlohmann::json render_one(const nlohmann::ordered_json& request) {
  const auto made = model::chat_template::make(request["template"].get<std::string>());
  if (!made) return {{"error", to_string(made.error())}};
  const auto segments = (*made)->render_ordered(request["context"]);
  if (!segments) return {{"error", to_string(segments.error())}};
  std::string text;
  for (const auto& segment : *segments) text += segment.text;
  return {{"text", text}, {"wants_content_parts", (*made)->wants_content_parts()}};
}

int render() {
  for (std::string line; std::getline(std::cin, line);)
    std::cout << render_one(nlohmann::ordered_json::parse(line)).dump() << '\n';
  return 0;
}

// MODEL is what open_model takes, or a tokenizer.json alone.
result<std::shared_ptr<const model::tokenizer>> open_tokenizer(const std::string& path) {
  if (path.ends_with(".json")) {
    TROUPE_TRY(const auto text, model::read_text_file(path, 64u << 20));
    model::metadata meta(path);
    meta.set_string(model::metadata_keys::hf_tokenizer_json, text);
    return model::make_tokenizer(meta);
  }
  TROUPE_TRY(const auto opened, model::open_model(path));
  return model::tokenizer::make(*opened);
}

int with_tokenizer(const std::string& path, int (*use)(const model::tokenizer&)) {
  const auto tokenizer = open_tokenizer(path);
  if (!tokenizer) return std::cerr << to_string(tokenizer.error()) << '\n', 1;
  return use(**tokenizer);
}

}  // namespace

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "render" && argc == 2) return render();
  if (command == "tokenize" && argc == 3) return with_tokenizer(argv[2], tokenize);
  if (command == "speed" && argc == 3) return with_tokenizer(argv[2], speed);
  std::cerr << "usage: reference_tool tokenize|speed MODEL, or reference_tool render\n";
  return 2;
}
