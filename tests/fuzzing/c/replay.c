/* Runs a target once on each file that is named: seeds, and what once was a crash,
 * where there is no libFuzzer; and a corpus, to count the lines that it reaches. */
#include "fuzz.h"

int main(int argc, char **argv) {
  static uint8_t data[1 << 16];
  for (int i = 1; i < argc; i++) {
    FILE *file = fopen(argv[i], "rb");
    if (file == NULL) return 2;
    const size_t size = fread(data, 1, sizeof data, file);
    fclose(file);
    uint8_t *copy = exactly(data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
  }
  printf("%d\n", argc - 1);
  return 0;
}
