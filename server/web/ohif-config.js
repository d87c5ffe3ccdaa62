// The viewer's settings: one DICOMweb source, the server that this page came from.
// Sources and settings named in the page's address (?url=, configUrl, ?customization=) stay off:
// a crafted link must never make the viewer talk to another server.
window.config = {
  name: 'readingroom',
  routerBasename: '/ohif',
  extensions: [],
  modes: [],
  customizationService: {},
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  groupEnabledModesFirst: true,
  maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 25 },
  showErrorDetails: 'production',
  investigationalUseDialog: { option: 'configure', days: 30 },
  defaultDataSourceName: 'readingroom',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'readingroom',
      configuration: {
        friendlyName: 'readingroom',
        name: 'readingroom',
        qidoRoot: `${window.location.origin}/dicomweb`,
        wadoRoot: `${window.location.origin}/dicomweb`,
        qidoSupportsIncludeField: true,
        supportsFuzzyMatching: true,
        supportsWildcard: true,
        supportsStow: true,
        dicomUploadEnabled: true,
        enableStudyLazyLoad: true,
        imageRendering: 'wadors',
        thumbnailRendering: 'rendered',
        thumbnailRequestStrategy: 'fetch',
        omitQuotationForMultipartRequest: true,
        // Not 'pdf': a document fetched as bulk data becomes a blob: page, which the isolation headers let in.
        singlepart: 'bulkdata,video',
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
